/* Lets reads of parts of files fail with EIO, as a disk with bad sectors does: preloaded into a program by scripts/survival.
 *
 * BAD_SECTORS=INODE:FIRST:END[;INODE:FIRST:END...]   bytes FIRST..END of the file with this inode number
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_bad(int fd, off_t off, size_t len)
{
    const char *list = getenv("BAD_SECTORS");
    struct stat facts;
    if (!list || !*list || fstat(fd, &facts))
        return 0;
    for (;;) {
        char *at;
        ino_t inode = strtoull(list, &at, 10);
        off_t first = *at == ':' ? strtoll(at + 1, &at, 10) : 0;
        off_t end = *at == ':' ? strtoll(at + 1, &at, 10) : 0;
        if (inode == facts.st_ino && off < end && off + (off_t)len > first)
            return 1;
        if (*at != ';')
            return 0;
        list = at + 1;
    }
}

ssize_t pread64(int fd, void *buf, size_t len, off_t off)
{
    static ssize_t (*real)(int, void *, size_t, off_t);
    if (!real)
        real = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread64");
    if (is_bad(fd, off, len)) {
        errno = EIO;
        return -1;
    }
    return real(fd, buf, len, off);
}

ssize_t pread(int fd, void *buf, size_t len, off_t off)
{
    return pread64(fd, buf, len, off);
}
