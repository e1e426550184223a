/* The third part of preload.c: listings of directories, for the entries of nodes.h. */


/* A listing of ours behind a DIR pointer; glibc's begins with a file descriptor, which is never negative. */
struct listing {
    int mark;
    DIR *real; /* NULL for a directory that only we have */
    int fd;    /* of such a directory, -1 if it was not opened by one */
    int next;  /* in ENTRIES */
    struct dirent64 entry;
    char path[PATH_MAX];
};
enum { MARK = -0x7EF1 };

static struct listing *ours(DIR *directory)
{
    struct listing *listing = (struct listing *)directory;
    return listing->mark == MARK ? listing : NULL;
}

/* A listing for a directory in which there are entries of ours; else what glibc made. Takes over real and fd. */
static DIR *list(const char *path, DIR *real, int fd)
{
    int some = 0;
    for (int i = 0; i < ENTRY_COUNT && !some; i++)
        some = child(&ENTRIES[i], path) != NULL;
    struct listing *listing = some ? calloc(1, sizeof *listing) : NULL;
    if (!listing)
        return real;
    *listing = (struct listing){.mark = MARK, .real = real, .fd = fd};
    strcpy(listing->path, path);
    return (DIR *)listing;
}

EXPORT DIR *opendir(const char *name)
{
    char path[PATH_MAX];
    int saved = errno;
    int known = absolute(AT_FDCWD, name, 1, path);
    const struct entry *entry = known ? find(path) : NULL;
    errno = saved;
    if (entry && entry->kind != DIRECTORY) {
        errno = ENOTDIR;
        return NULL;
    }
    DIR *real = NEXT(opendir)(entry ? entry->path : name);
    if (entry && !real)
        errno = saved;
    return known && (real || entry) ? list(path, real, -1) : real;
}

EXPORT DIR *fdopendir(int fd)
{
    char path[PATH_MAX];
    int saved = errno;
    const struct entry *entry = opened(fd);
    if (entry && entry->kind == DIRECTORY)
        return list(entry->path, NULL, fd);
    int known = !directory_path(fd, path) && (!strncmp(path, "/dev", 4) || !strncmp(path, "/sys", 4));
    errno = saved;
    DIR *real = NEXT(fdopendir)(fd);
    return known && real ? list(path, real, -1) : real;
}

static struct dirent64 *read_listing(struct listing *listing)
{
    struct dirent64 *real;
    char path[2 * PATH_MAX];
    while (listing->real && (real = NEXT(readdir64)(listing->real))) {
        snprintf(path, sizeof path, "%s/%s", listing->path, real->d_name);
        if (!find(path))
            return real;
    }
    while (listing->next < ENTRY_COUNT) {
        static const unsigned char types[] = {DT_DIR, DT_REG, DT_LNK, DT_CHR};
        const struct entry *entry = &ENTRIES[listing->next++];
        const char *name = child(entry, listing->path);
        if (!name)
            continue;
        listing->entry.d_ino = entry_number(entry);
        listing->entry.d_reclen = sizeof listing->entry;
        listing->entry.d_type = types[entry->kind];
        snprintf(listing->entry.d_name, sizeof listing->entry.d_name, "%s", name);
        return &listing->entry;
    }
    return NULL;
}

EXPORT struct dirent64 *readdir64(DIR *directory)
{
    return ours(directory) ? read_listing(ours(directory)) : NEXT(readdir64)(directory);
}

EXPORT struct dirent *readdir(DIR *directory)
{
    return ours(directory) ? (struct dirent *)read_listing(ours(directory)) : NEXT(readdir)(directory);
}

EXPORT void rewinddir(DIR *directory)
{
    struct listing *listing = ours(directory);
    if (listing)
        listing->next = 0;
    if (!listing || listing->real)
        NEXT(rewinddir)(listing ? listing->real : directory);
}

EXPORT int dirfd(DIR *directory)
{
    struct listing *listing = ours(directory);
    if (!listing || listing->real)
        return NEXT(dirfd)(listing ? listing->real : directory);
    if (listing->fd < 0)
        errno = ENOTSUP;
    return listing->fd;
}

EXPORT int closedir(DIR *directory)
{
    struct listing *listing = ours(directory);
    int result = !listing || listing->real ? NEXT(closedir)(listing ? listing->real : directory) : 0;
    if (listing && listing->fd >= 0)
        result = close(listing->fd);
    free(listing);
    return result;
}

/* glibc's scandir does not come through our readdir. */
#define SCANDIR(name, type, read)                                                                               \
    EXPORT int name(const char *path, type ***out, int (*filter)(const type *),                                 \
                    int (*compare)(const type **, const type **))                                               \
    {                                                                                                           \
        DIR *directory = opendir(path);                                                                         \
        type *entry, **found = NULL;                                                                            \
        int count = 0;                                                                                          \
        if (!directory)                                                                                         \
            return -1;                                                                                          \
        while ((entry = read(directory))) {                                                                     \
            if (filter && !filter(entry))                                                                       \
                continue;                                                                                       \
            type **more = realloc(found, ((size_t)count + 1) * sizeof *found), *copy = malloc(sizeof *copy);    \
            if (more)                                                                                           \
                found = more;                                                                                   \
            if (!more || !copy) {                                                                               \
                free(copy);                                                                                     \
                while (count)                                                                                   \
                    free(found[--count]);                                                                       \
                free(found);                                                                                    \
                closedir(directory);                                                                            \
                errno = ENOMEM;                                                                                 \
                return -1;                                                                                      \
            }                                                                                                   \
            memcpy(copy, entry, entry->d_reclen < sizeof *copy ? entry->d_reclen : sizeof *copy);               \
            found[count++] = copy;                                                                              \
        }                                                                                                       \
        closedir(directory);                                                                                    \
        if (compare && count)                                                                                   \
            qsort(found, (size_t)count, sizeof *found, (int (*)(const void *, const void *))compare);           \
        *out = found;                                                                                           \
        return count;                                                                                           \
    }
SCANDIR(scandir, struct dirent, readdir)
SCANDIR(scandir64, struct dirent64, readdir64)
