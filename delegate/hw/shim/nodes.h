/* What the stand-in adds to /dev and /sys: the nodes of both kernel drivers as a small tree of entries.
 *
 * Names and contents are those that libdrm and Mesa's loader read: uevent, dev, and the links device and subsystem. */
#ifndef TEFLON_SHIM_NODES_H
#define TEFLON_SHIM_NODES_H

enum kind { DIRECTORY, REGULAR, SYMLINK, DEVICE };
enum driver { ROCKET = 1, RKNPU = 2, RKNPU_MISC = 4 };

struct entry {
    enum driver driver;
    enum kind kind;
    const char *path;    /* without symbolic links */
    const char *content; /* of a file; target of a link, absolute; name of a device's socket */
    unsigned major, minor;
};

#define RKNN "/sys/devices/platform/rknn"
#define NPU "/sys/devices/platform/fdab0000.npu"
#define MISC "/sys/devices/virtual/misc/rknpu"
#define PARENT(driver, path, uevent, modalias)                          \
    {driver, DIRECTORY, path, 0, 0, 0},                                 \
    {driver, REGULAR, path "/uevent", uevent, 0, 0},                    \
    {driver, REGULAR, path "/modalias", modalias "\n", 0, 0},           \
    {driver, SYMLINK, path "/subsystem", "/sys/bus/platform", 0, 0}
#define MINOR(driver, parent, class, name, folder, type, major, minor)                                               \
    {driver, DIRECTORY, parent "/" class "/" name, 0, 0, 0},                                                         \
    {driver, REGULAR, parent "/" class "/" name "/uevent",                                                           \
     "MAJOR=" #major "\nMINOR=" #minor "\nDEVNAME=" folder "/" name "\nDEVTYPE=" type "\n", 0, 0},                   \
    {driver, REGULAR, parent "/" class "/" name "/dev", #major ":" #minor "\n", 0, 0},                               \
    {driver, SYMLINK, parent "/" class "/" name "/device", parent, 0, 0},                                            \
    {driver, SYMLINK, parent "/" class "/" name "/subsystem", "/sys/class/" class, 0, 0},                            \
    {driver, SYMLINK, "/sys/class/" class "/" name, parent "/" class "/" name, 0, 0},                                \
    {driver, SYMLINK, "/sys/dev/char/" #major ":" #minor, parent "/" class "/" name, 0, 0},                          \
    {driver, DEVICE, "/dev/" folder "/" name, name, major, minor}

static const struct entry ENTRIES[] = {
    PARENT(ROCKET, RKNN, "MODALIAS=platform:rknn\n", "platform:rknn"),
    {ROCKET, DIRECTORY, RKNN "/accel", 0, 0, 0},
    MINOR(ROCKET, RKNN, "accel", "accel0", "accel", "accel_minor", 261, 0),
    {ROCKET, DIRECTORY, "/sys/class/accel", 0, 0, 0},
    {ROCKET, DIRECTORY, "/dev/accel", 0, 0, 0},
    {ROCKET, DIRECTORY, "/sys/module/rocket", 0, 0, 0},
    {ROCKET, DIRECTORY, "/sys/bus/platform/drivers/rocket", 0, 0, 0},
    PARENT(RKNPU, NPU,
           "DRIVER=RKNPU\nOF_NAME=npu\nOF_FULLNAME=/npu@fdab0000\nOF_COMPATIBLE_0=rockchip,rk3588-rknpu\n"
           "OF_COMPATIBLE_N=1\nMODALIAS=of:NnpuT(null)Crockchip,rk3588-rknpu\n",
           "of:NnpuT(null)Crockchip,rk3588-rknpu"),
    {RKNPU, DIRECTORY, NPU "/drm", 0, 0, 0},
    MINOR(RKNPU, NPU, "drm", "card1", "dri", "drm_minor", 226, 1),
    MINOR(RKNPU, NPU, "drm", "renderD129", "dri", "drm_minor", 226, 129),
    {RKNPU, DIRECTORY, "/sys/class/drm", 0, 0, 0},
    {RKNPU, DIRECTORY, "/dev/dri", 0, 0, 0},
    {RKNPU, DIRECTORY, "/sys/module/rknpu", 0, 0, 0},
    {RKNPU, DIRECTORY, "/sys/bus/platform/drivers/RKNPU", 0, 0, 0},
    {RKNPU, DIRECTORY, "/sys/class/devfreq", 0, 0, 0},
    {RKNPU, DIRECTORY, "/sys/class/devfreq/fdab0000.npu", 0, 0, 0},
    {RKNPU, REGULAR, "/sys/class/devfreq/fdab0000.npu/cur_freq", "1000000000\n", 0, 0},
    /* The vendor's driver without DRM: a misc device, whose minor is dynamic. */
    {RKNPU_MISC, DIRECTORY, MISC, 0, 0, 0},
    {RKNPU_MISC, REGULAR, MISC "/uevent", "MAJOR=10\nMINOR=122\nDEVNAME=rknpu\n", 0, 0},
    {RKNPU_MISC, REGULAR, MISC "/dev", "10:122\n", 0, 0},
    {RKNPU_MISC, SYMLINK, MISC "/subsystem", "/sys/class/misc", 0, 0},
    {RKNPU_MISC, DIRECTORY, "/sys/class/misc", 0, 0, 0},
    {RKNPU_MISC, SYMLINK, "/sys/class/misc/rknpu", MISC, 0, 0},
    {RKNPU_MISC, SYMLINK, "/sys/dev/char/10:122", MISC, 0, 0},
    {RKNPU_MISC, DIRECTORY, "/sys/module/rknpu", 0, 0, 0},
    {RKNPU_MISC, DEVICE, "/dev/rknpu", "rknpu", 10, 122},
};
enum { ENTRY_COUNT = sizeof ENTRIES / sizeof *ENTRIES };

#endif
