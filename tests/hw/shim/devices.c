/* What libdrm says of the nodes. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include <xf86drm.h>

static void show(const char *path, drmDevicePtr device)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    drmVersionPtr version = fd < 0 ? NULL : drmGetVersion(fd);
    if (!version)
        return;
    printf("%s: %s %d.%d.%d", path, version->name, version->version_major, version->version_minor,
           version->version_patchlevel);
    if (device)
        printf(", bus %s, %s, %s", device->bustype == DRM_BUS_PLATFORM ? "platform" : "other",
               device->businfo.platform->fullname, device->deviceinfo.platform->compatible[0]);
    printf("\n");
    drmFreeVersion(version);
    close(fd);
}

int main(void)
{
    drmDevicePtr devices[8];
    int count = drmGetDevices2(0, devices, 8);
    for (int i = 0; i < count; i++)
        show(devices[i]->nodes[DRM_NODE_RENDER], devices[i]);
    show("/dev/accel/accel0", NULL);
    return count < 1;
}
