/* LD_PRELOAD library that makes the NPU's device nodes appear and sends what is done with them to a server.
 *
 * It keeps no state but its settings: an open node is a socket whose peer's name tells the node, so that threads, fork and exec need no
 * care here. Everything that a kernel would decide is decided by the server (python -m delegate shim starts it).
 *
 * TEFLON_SHIM_SOCKET: the beginning of the servers' abstract socket names; without it the library does nothing.
 * TEFLON_SHIM: rocket, rknpu, rknpu-misc or both (the first two; default): which nodes there are. */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "nodes.h"
#include "wire.h"

#define EXPORT __attribute__((visibility("default")))
/* The function that this library hides. */
#define NEXT(name) ({ static __typeof__(&name) found; if (!found) found = (__typeof__(&name))next(#name); found; })

static void *next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort(); /* glibc has all of them */
    return found;
}

static char prefix[80]; /* as the program found it: it may empty its environment later */
static int nodes;       /* enum driver, added up */
static int configured;

static void configure(void)
{
    const char *given = getenv("TEFLON_SHIM_SOCKET"), *chosen = getenv("TEFLON_SHIM");
    if (given && strlen(given) < sizeof prefix)
        strcpy(prefix, given);
    nodes = !chosen || !strcmp(chosen, "rocket") ? ROCKET : 0;
    nodes |= !chosen || !strcmp(chosen, "rknpu") ? RKNPU : 0;
    nodes |= chosen && !strcmp(chosen, "rknpu-misc") ? RKNPU_MISC : 0;
    nodes = nodes ? nodes : ROCKET | RKNPU;
    configured = 1;
}

static const char *socket_prefix(void)
{
    if (!configured)
        configure();
    return *prefix ? prefix : NULL;
}

static int present(const struct entry *entry)
{
    return socket_prefix() && nodes & entry->driver;
}

/* ---- paths -------------------------------------------------------------------------------------------------- */

static const struct entry *find(const char *path)
{
    for (int i = 0; i < ENTRY_COUNT; i++)
        if (!strcmp(ENTRIES[i].path, path) && present(&ENTRIES[i]))
            return &ENTRIES[i];
    return NULL;
}

/* The name of the entry inside a directory if it lies directly in it. */
static const char *child(const struct entry *entry, const char *directory)
{
    size_t length = strlen(directory);
    if (strncmp(entry->path, directory, length) || entry->path[length] != '/' || strchr(entry->path + length + 1, '/'))
        return NULL;
    return present(entry) ? entry->path + length + 1 : NULL;
}

/* The path of an open directory; a directory that only we have is an anonymous file with its path as name. */
static int directory_path(int fd, char path[PATH_MAX])
{
    static const char memory[] = "/memfd:";
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = NEXT(readlink)(link, path, PATH_MAX - 1);
    if (length < 0)
        return -1;
    path[length] = 0;
    if (!strncmp(path, memory, sizeof memory - 1)) {
        memmove(path, path + sizeof memory - 1, (size_t)length - sizeof memory + 2);
        char *end = strstr(path, " (deleted)");
        if (end)
            *end = 0;
    }
    return 0;
}

/* Appends a path to an absolute one, component by component, through our own symbolic links. */
static int walk(char out[PATH_MAX], const char *path, int follow, int depth)
{
    if (*path == '/')
        *out = 0;
    while (*path) {
        size_t length = strcspn(path, "/"), have = strlen(out);
        const char *rest = path + length + strspn(path + length, "/");
        if (length == 2 && path[0] == '.' && path[1] == '.') {
            char *slash = strrchr(out, '/');
            if (slash)
                *slash = 0;
        } else if (length && !(length == 1 && *path == '.')) {
            if (have + length + 2 > PATH_MAX)
                return -1;
            out[have] = '/';
            memcpy(out + have + 1, path, length);
            out[have + 1 + length] = 0;
            const struct entry *entry = (*rest || follow) ? find(out) : NULL;
            if (entry && entry->kind == SYMLINK && (depth > 8 || walk(out, entry->content, 1, depth + 1)))
                return -1;
        }
        path = rest;
    }
    return 0;
}

/* Makes a path absolute, into out; 0 unless it leads to /dev or /sys, where our entries are. */
static int absolute(int directory, const char *path, int follow, char out[PATH_MAX])
{
    if (!path || !*path || !socket_prefix())
        return 0;
    *out = 0;
    if (*path != '/') {
        if (directory == AT_FDCWD ? !getcwd(out, PATH_MAX) : directory_path(directory, out))
            return 0;
        if (!strcmp(out, "/"))
            *out = 0;
    }
    if (walk(out, path, follow, 0))
        return 0;
    return !strncmp(out, "/dev", 4) || !strncmp(out, "/sys", 4);
}

/* Our entry for a path; errno stays as it was. */
static const struct entry *lookup(int directory, const char *path, int follow)
{
    char out[PATH_MAX];
    int saved = errno;
    const struct entry *entry = absolute(directory, path, follow, out) ? find(out) : NULL;
    errno = saved;
    return entry;
}

/* ---- the server --------------------------------------------------------------------------------------------- */

static socklen_t socket_name(const char *node, struct sockaddr_un *name)
{
    memset(name, 0, sizeof *name);
    name->sun_family = AF_UNIX;
    int length = snprintf(name->sun_path + 1, sizeof name->sun_path - 1, "%s.%s", socket_prefix(), node);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

/* The device behind a file descriptor, NULL if it is none of ours; errno stays as it was. */
static const struct entry *device(int fd)
{
    struct sockaddr_un peer, name;
    socklen_t length = sizeof peer;
    int saved = errno;
    const struct entry *found = NULL;
    if (fd >= 0 && socket_prefix() && !getpeername(fd, (struct sockaddr *)&peer, &length) && peer.sun_family == AF_UNIX)
        for (int i = 0; i < ENTRY_COUNT && !found; i++)
            if (ENTRIES[i].kind == DEVICE && socket_name(ENTRIES[i].content, &name) == length &&
                !memcmp(&peer, &name, length))
                found = &ENTRIES[i];
    errno = saved;
    return found;
}

static int open_device(const struct entry *entry, int flags)
{
    struct sockaddr_un name;
    socklen_t length = socket_name(entry->content, &name);
    int32_t error = ENODEV;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | (flags & O_CLOEXEC ? SOCK_CLOEXEC : 0), 0);
    if (fd < 0)
        return -1;
    ssize_t got = -1;
    int connected;
    while ((connected = connect(fd, (struct sockaddr *)&name, length)) && errno == EINTR)
        ;
    if (!connected)
        while ((got = recv(fd, &error, sizeof error, 0)) < 0 && errno == EINTR)
            ;
    if (got != sizeof error)
        error = ENODEV; /* the server is gone */
    if (!error)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

/* Sends a message of up to two parts, with a file descriptor if that is not negative. The kernel reads the second part,
 * the caller's memory: EFAULT if it cannot. */
static ssize_t send_message(int fd, const void *head, size_t head_size, const void *data, size_t size, int passed)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec parts[2] = {{(void *)head, head_size}, {(void *)data, size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = size ? 2 : 1};
    memset(&control, 0, sizeof control);
    if (passed >= 0) {
        control.header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &passed, sizeof passed);
        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
    }
    ssize_t sent;
    while ((sent = sendmsg(fd, &message, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        ;
    return sent;
}

/* Receives a message and the file descriptor that came with it, -1 if none did. */
static ssize_t receive_reply(int fd, struct reply *reply, int *passed)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {reply, sizeof *reply};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
    *passed = -1;
    ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(passed, CMSG_DATA(header), sizeof *passed);
    return got;
}

/* Does what the server asks for; returns 0, or the error that the call is to end with. */
static int answer(int channel, const struct reply *reply, int passed, int *mapped)
{
    void *address = (void *)(uintptr_t)reply->address;
    uint8_t status = 0;
    ssize_t got;
    switch (reply->kind) {
    case COPY_IN:
        if (send_message(channel, &status, 1, address, reply->length, -1) >= 0)
            return 0;
        status = EFAULT;
        send_message(channel, &status, 1, NULL, 0, -1);
        return 0;
    case COPY_OUT:
        while ((got = recv(channel, address, reply->length, 0)) < 0 && (errno == EINTR || errno == ECONNRESET))
            ; /* reset: see call() */
        return got == (ssize_t)reply->length ? 0 : EFAULT;
    case TAKE_FD:
        if (send_message(channel, &status, 1, NULL, 0, (int)reply->address) >= 0)
            return 0;
        status = EBADF;
        send_message(channel, &status, 1, NULL, 0, -1);
        return 0;
    case GIVE_FD:
        if (reply->result)
            fcntl(passed, F_SETFD, 0);
        if (address)
            memcpy(address, &passed, sizeof passed);
        else
            *mapped = passed;
        return 0;
    }
    return EIO;
}

/* Sends a request and serves the server until it is done. A signal without SA_RESTART is passed on once: the server
 * knows whether the call can be interrupted. */
static long call(int fd, const struct request *request, int *mapped)
{
    int pair[2], error = 0, passed, told = 0;
    struct reply reply;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return -ENOMEM;
    ssize_t sent = send_message(fd, request, sizeof *request, NULL, 0, pair[1]);
    close(pair[1]);
    for (;;) {
        ssize_t got = sent < 0 ? 0 : receive_reply(pair[0], &reply, &passed);
        if (got < 0 && errno == EINTR) {
            uint8_t status = INTERRUPTED;
            if (!told++)
                send_message(pair[0], &status, 1, NULL, 0, -1);
            continue;
        }
        if (got < 0 && errno == ECONNRESET)
            continue; /* the server was done before it saw the signal; what it sent comes next, or the end */
        if (got != sizeof reply) {
            reply = (struct reply){.kind = DONE, .result = -ENODEV}; /* the server is gone */
            error = 0;
        }
        if (reply.kind == DONE)
            break;
        int failed = answer(pair[0], &reply, passed, mapped);
        error = error ? error : failed;
    }
    close(pair[0]);
    return error ? -error : reply.result;
}

/* Commands that a kernel answers before it asks the driver. */
static int is_of_every_file(unsigned long command)
{
    return command == FIOCLEX || command == FIONCLEX || command == FIONBIO || command == FIOASYNC;
}

enum { DMA_BUF_SYNC = 0x40086200 };

/* Whether a descriptor is a buffer's that was exported (PRIME_HANDLE_TO_FD): the server's memory files have that name. */
static int exported(int fd)
{
    char path[PATH_MAX];
    int saved = errno, found = !directory_path(fd, path) && !strcmp(path, "npu buffer");
    errno = saved;
    return found;
}

EXPORT int ioctl(int fd, unsigned long command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    const struct entry *entry = is_of_every_file(command) ? NULL : device(fd);
    if (!entry && (uint32_t)command == DMA_BUF_SYNC && exported(fd))
        return 0; /* an exported buffer's memory is coherent */
    if (!entry)
        return NEXT(ioctl)(fd, command, argument);
    if (entry->driver != RKNPU_MISC && (command >> 8 & 0xFF) != 'd') {
        errno = ENOTTY; /* drm_ioctl; the misc driver looks at the number only */
        return -1;
    }
    struct request request = {REQUEST_IOCTL, (uint32_t)command, (uintptr_t)argument, 0, 0};
    int saved = errno, mapped = -1;
    long result = call(fd, &request, &mapped);
    errno = result < 0 ? (int)-result : saved;
    return result < 0 ? -1 : (int)result;
}

EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (flags & MAP_ANONYMOUS || !device(fd))
        return NEXT(mmap)(address, length, protection, flags, fd, offset);
    struct request request = {REQUEST_MMAP, 0, (uint64_t)offset, length, (flags & MAP_TYPE) == MAP_PRIVATE};
    int mapped = -1;
    long result = call(fd, &request, &mapped);
    if (result < 0 || mapped < 0) {
        errno = result < 0 ? (int)-result : EIO;
        return MAP_FAILED;
    }
    void *view = NEXT(mmap)(address, length, protection, flags, mapped, 0);
    int saved = errno;
    close(mapped);
    errno = saved;
    return view;
}

EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
    return mmap(address, length, protection, flags, fd, offset);
}

/* noop_llseek: a node has a position that nothing moves. */
EXPORT off_t lseek(int fd, off_t offset, int whence)
{
    return device(fd) ? 0 : NEXT(lseek)(fd, offset, whence);
}

EXPORT off64_t lseek64(int fd, off64_t offset, int whence)
{
    return lseek(fd, offset, whence);
}

#include "files.h"

#include "directories.h"
