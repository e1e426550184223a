/* The second part of preload.c: files and what is known about them, for the entries of nodes.h. */

/* ---- opening ------------------------------------------------------------------------------------------------ */

/* An anonymous file with the text of a file in /sys; or one that stands for a directory, with its path as name. */
static int open_text(const struct entry *entry, int flags)
{
    if ((flags & O_ACCMODE) != O_RDONLY || (flags & O_DIRECTORY && entry->kind != DIRECTORY)) {
        errno = flags & O_DIRECTORY ? ENOTDIR : EACCES;
        return -1;
    }
    int fd = memfd_create(entry->path, flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
    if (fd >= 0 && entry->kind == REGULAR) {
        ssize_t length = (ssize_t)strlen(entry->content);
        if (write(fd, entry->content, (size_t)length) != length || lseek(fd, 0, SEEK_SET)) {
            close(fd);
            errno = EIO;
            return -1;
        }
    }
    return fd;
}

/* Opens one of our entries; -2 if the path is none of them. */
static int open_ours(int directory, const char *path, int flags)
{
    const struct entry *entry = lookup(directory, path, !(flags & O_NOFOLLOW));
    if (!entry)
        return -2;
    if (entry->kind == SYMLINK) {
        errno = ELOOP;
        return -1;
    }
    if (entry->kind == DEVICE && !(flags & O_DIRECTORY))
        return open_device(entry, flags);
    if (entry->kind == DIRECTORY) {
        int fd = NEXT(openat)(AT_FDCWD, entry->path, flags); /* one that the machine has too */
        if (fd >= 0 || errno != ENOENT)
            return fd;
    }
    return open_text(entry, flags);
}

#define MODE(last)                            \
    mode_t mode = 0;                          \
    if (flags & (O_CREAT | O_TMPFILE)) {      \
        va_list arguments;                    \
        va_start(arguments, last);            \
        mode = va_arg(arguments, mode_t);     \
        va_end(arguments);                    \
    }

#define OPEN(name)                                                      \
    EXPORT int name(const char *path, int flags, ...)                   \
    {                                                                   \
        MODE(flags)                                                     \
        int fd = open_ours(AT_FDCWD, path, flags);                      \
        return fd != -2 ? fd : NEXT(name)(path, flags, mode);           \
    }
#define OPENAT(name)                                                    \
    EXPORT int name(int directory, const char *path, int flags, ...)    \
    {                                                                   \
        MODE(flags)                                                     \
        int fd = open_ours(directory, path, flags);                     \
        return fd != -2 ? fd : NEXT(name)(directory, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* What programs that were built with _FORTIFY_SOURCE call. */
#define OPEN_CHECKED(name, plain)                                       \
    int name(const char *path, int flags);                              \
    EXPORT int name(const char *path, int flags)                        \
    {                                                                   \
        return plain(path, flags);                                      \
    }
#define OPENAT_CHECKED(name, plain)                                     \
    int name(int directory, const char *path, int flags);               \
    EXPORT int name(int directory, const char *path, int flags)         \
    {                                                                   \
        return plain(directory, path, flags);                           \
    }
OPEN_CHECKED(__open_2, open)
OPEN_CHECKED(__open64_2, open64)
OPENAT_CHECKED(__openat_2, openat)
OPENAT_CHECKED(__openat64_2, openat64)

#define FOPEN(name)                                                                                     \
    EXPORT FILE *name(const char *path, const char *mode)                                               \
    {                                                                                                   \
        int flags = strchr(mode, '+') ? O_RDWR : *mode == 'r' ? O_RDONLY : O_WRONLY;                    \
        int fd = open_ours(AT_FDCWD, path, flags | (strchr(mode, 'e') ? O_CLOEXEC : 0));                \
        return fd == -2 ? NEXT(name)(path, mode) : fd < 0 ? NULL : fdopen(fd, mode);                    \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* ---- what is known about a file ----------------------------------------------------------------------------- */

static const mode_t MODES[] = {
    [DIRECTORY] = S_IFDIR | 0755, [REGULAR] = S_IFREG | 0444, [SYMLINK] = S_IFLNK | 0777, [DEVICE] = S_IFCHR | 0666};

static size_t entry_size(const struct entry *entry)
{
    return entry->kind == REGULAR ? 4096 : entry->kind == SYMLINK ? strlen(entry->content) : 0;
}

static ino_t entry_number(const struct entry *entry)
{
    return (ino_t)(0x7E0000 + (entry - ENTRIES));
}

static int fill_stat(const struct entry *entry, void *buffer)
{
    struct stat *out = buffer; /* struct stat64 is the same */
    memset(out, 0, sizeof *out);
    out->st_ino = entry_number(entry);
    out->st_mode = MODES[entry->kind];
    out->st_nlink = entry->kind == DIRECTORY ? 2 : 1;
    out->st_rdev = makedev(entry->major, entry->minor);
    out->st_size = (off_t)entry_size(entry);
    out->st_blksize = 4096;
    return 0;
}

/* Our entry behind a file descriptor: a device, or a directory that only we have. */
static const struct entry *opened(int fd)
{
    char path[PATH_MAX];
    struct stat status;
    int saved = errno;
    const struct entry *entry = device(fd);
    if (!entry && socket_prefix() && !syscall(SYS_newfstatat, fd, "", &status, AT_EMPTY_PATH) && S_ISREG(status.st_mode) && !status.st_nlink &&
        !directory_path(fd, path))
        entry = find(path);
    errno = saved;
    return entry;
}

static const struct entry *entry_at(int directory, const char *path, int flags)
{
    if (path && !*path && flags & AT_EMPTY_PATH)
        return opened(directory);
    return lookup(directory, path, !(flags & AT_SYMLINK_NOFOLLOW));
}

/* The kernel's own call, for a glibc before 2.33 has no function stat. */
static int stat_at(int directory, const char *path, void *out, int flags)
{
    const struct entry *entry = entry_at(directory, path, flags);
    return entry ? fill_stat(entry, out) : (int)syscall(SYS_newfstatat, directory, path, out, flags);
}

#define STATS(suffix, type)                                                                     \
    int __xstat##suffix(int version, const char *path, type *out);                              \
    int __lxstat##suffix(int version, const char *path, type *out);                             \
    int __fxstat##suffix(int version, int fd, type *out);                                       \
    int __fxstatat##suffix(int version, int directory, const char *path, type *out, int flags); \
    EXPORT int stat##suffix(const char *path, type *out)                                        \
    {                                                                                           \
        return stat_at(AT_FDCWD, path, out, 0);                                                 \
    }                                                                                           \
    EXPORT int lstat##suffix(const char *path, type *out)                                       \
    {                                                                                           \
        return stat_at(AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW);                               \
    }                                                                                           \
    EXPORT int fstat##suffix(int fd, type *out)                                                 \
    {                                                                                           \
        return stat_at(fd, "", out, AT_EMPTY_PATH);                                             \
    }                                                                                           \
    EXPORT int fstatat##suffix(int directory, const char *path, type *out, int flags)           \
    {                                                                                           \
        return stat_at(directory, path, out, flags);                                            \
    }                                                                                           \
    /* What programs call that were built with a glibc before 2.33. */                          \
    EXPORT int __xstat##suffix(int version, const char *path, type *out)                        \
    {                                                                                           \
        (void)version;                                                                          \
        return stat_at(AT_FDCWD, path, out, 0);                                                 \
    }                                                                                           \
    EXPORT int __lxstat##suffix(int version, const char *path, type *out)                       \
    {                                                                                           \
        (void)version;                                                                          \
        return stat_at(AT_FDCWD, path, out, AT_SYMLINK_NOFOLLOW);                               \
    }                                                                                           \
    EXPORT int __fxstat##suffix(int version, int fd, type *out)                                 \
    {                                                                                           \
        (void)version;                                                                          \
        return stat_at(fd, "", out, AT_EMPTY_PATH);                                             \
    }                                                                                           \
    EXPORT int __fxstatat##suffix(int version, int directory, const char *path, type *out, int flags) \
    {                                                                                           \
        (void)version;                                                                          \
        return stat_at(directory, path, out, flags);                                            \
    }
STATS(, struct stat)
STATS(64, struct stat64)

EXPORT int statx(int directory, const char *path, int flags, unsigned mask, struct statx *out)
{
    const struct entry *entry = entry_at(directory, path, flags);
    if (!entry)
        return NEXT(statx)(directory, path, flags, mask, out);
    memset(out, 0, sizeof *out);
    out->stx_mask = STATX_BASIC_STATS;
    out->stx_blksize = 4096;
    out->stx_nlink = entry->kind == DIRECTORY ? 2 : 1;
    out->stx_mode = (uint16_t)MODES[entry->kind];
    out->stx_ino = entry_number(entry);
    out->stx_size = entry_size(entry);
    out->stx_rdev_major = entry->major;
    out->stx_rdev_minor = entry->minor;
    return 0;
}

static int may_access(const struct entry *entry, int mode)
{
    mode_t bits = MODES[entry->kind];
    int allowed = (bits & 0444 ? R_OK : 0) | (bits & 0002 || entry->kind == DIRECTORY ? W_OK : 0) | (bits & 0111 ? X_OK : 0);
    if (!(mode & ~allowed))
        return 0;
    errno = EACCES;
    return -1;
}

EXPORT int faccessat(int directory, const char *path, int mode, int flags)
{
    const struct entry *entry = lookup(directory, path, !(flags & AT_SYMLINK_NOFOLLOW));
    return entry ? may_access(entry, mode) : NEXT(faccessat)(directory, path, mode, flags);
}

#define ACCESS(name)                                                            \
    EXPORT int name(const char *path, int mode)                                 \
    {                                                                           \
        const struct entry *entry = lookup(AT_FDCWD, path, 1);                  \
        return entry ? may_access(entry, mode) : NEXT(name)(path, mode);        \
    }
ACCESS(access)
ACCESS(euidaccess)
ACCESS(eaccess)

EXPORT ssize_t readlinkat(int directory, const char *path, char *out, size_t size)
{
    const struct entry *entry = lookup(directory, path, 0);
    if (!entry)
        return NEXT(readlinkat)(directory, path, out, size);
    if (entry->kind != SYMLINK) {
        errno = EINVAL;
        return -1;
    }
    size_t length = strlen(entry->content);
    memcpy(out, entry->content, length < size ? length : size);
    return (ssize_t)(length < size ? length : size);
}

EXPORT ssize_t readlink(const char *path, char *out, size_t size)
{
    return lookup(AT_FDCWD, path, 0) ? readlinkat(AT_FDCWD, path, out, size) : NEXT(readlink)(path, out, size);
}

ssize_t __readlink_chk(const char *path, char *out, size_t size, size_t room);
EXPORT ssize_t __readlink_chk(const char *path, char *out, size_t size, size_t room)
{
    if (size > room)
        abort();
    return readlink(path, out, size);
}

EXPORT char *realpath(const char *path, char *out)
{
    const struct entry *entry = lookup(AT_FDCWD, path, 1);
    if (!entry)
        return NEXT(realpath)(path, out);
    return out ? strcpy(out, entry->path) : strdup(entry->path);
}

char *__realpath_chk(const char *path, char *out, size_t room);
EXPORT char *__realpath_chk(const char *path, char *out, size_t room)
{
    if (room < PATH_MAX)
        abort();
    return realpath(path, out);
}

EXPORT char *canonicalize_file_name(const char *path)
{
    return realpath(path, NULL);
}
