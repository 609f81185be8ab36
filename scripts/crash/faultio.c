/* Lets chosen calls of a program on chosen files fail, do nothing, or be its last: for the scripts beside it.
 *
 * Preloaded (LD_PRELOAD) into the process that serves a mount. FAULTIO_ROOT is the directory whose files count,
 * FAULTIO_CONTROL a file that is mapped and holds the rules; whoever maps it too changes them while the program
 * runs, with effect on the next call. The layout is known to harness.py as well.
 *
 * A rule counts the calls that match it. The calls numbered from..to-1 (from 1 on) are acted upon. Of several rules
 * that match, all count and the first that acts decides.
 *
 * Only calls by way of the C library are seen. That is all of what Rust's standard library and RocksDB do with files
 * here; harness.py refuses to go on when nothing has been counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CREATE = 1, WRITE = 2, READ = 4, SYNC = 8, RENAME = 16, REMOVE = 32, OPEN = 64, MKDIR = 128, TRUNCATE = 256 };
enum { COUNT, KILL_BEFORE, KILL_AFTER, KILL_HALFWAY, FAIL, FAIL_HALFWAY, SWALLOW };
enum { RULES = 16, PATTERN = 80 };

struct rule {
    _Atomic uint32_t on;
    uint32_t calls;
    uint32_t action;
    int32_t error;
    _Atomic uint64_t seen;
    uint64_t from, to;
    _Atomic uint64_t fired;
    char pattern[PATTERN]; /* of the path below the root; "." is the root itself; * crosses slashes */
};
_Static_assert(sizeof(struct rule) == 128, "harness.py knows this layout");

static struct rule *rules;
static char root[PATH_MAX];
static size_t root_len;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_renameat)(int, const char *, int, const char *);
static int (*real_renameat2)(int, const char *, int, const char *, unsigned);
static int (*real_unlink)(const char *);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_rmdir)(const char *);
static int (*real_mkdir)(const char *, mode_t);
static int (*real_ftruncate)(int, off_t);

__attribute__((constructor)) static void start(void) {
    real_open = dlsym(RTLD_NEXT, "open64");
    real_openat = dlsym(RTLD_NEXT, "openat64");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_pread = dlsym(RTLD_NEXT, "pread64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_renameat = dlsym(RTLD_NEXT, "renameat");
    real_renameat2 = dlsym(RTLD_NEXT, "renameat2");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_unlinkat = dlsym(RTLD_NEXT, "unlinkat");
    real_rmdir = dlsym(RTLD_NEXT, "rmdir");
    real_mkdir = dlsym(RTLD_NEXT, "mkdir");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    const char *control = getenv("FAULTIO_CONTROL"), *where = getenv("FAULTIO_ROOT");
    if (!control || !where || !realpath(where, root))
        return;
    root_len = strlen(root);
    int fd = real_open(control, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        rules = mapped;
}

static int wanted(uint32_t call) {
    for (int i = 0; rules && i < RULES; i++)
        if (atomic_load(&rules[i].on) && rules[i].calls & call)
            return 1;
    return 0;
}

/* The part of an absolute path below the root, or NULL. */
static const char *below(const char *path) {
    if (strncmp(path, root, root_len) != 0)
        return NULL;
    if (path[root_len] == 0)
        return ".";
    return path[root_len] == '/' ? path + root_len + 1 : NULL;
}

/* The rule that acts on this call, or NULL. */
static struct rule *decide(uint32_t call, const char *path) {
    struct rule *acting = NULL;
    const char *name = below(path);
    for (int i = 0; name && i < RULES; i++) {
        struct rule *rule = &rules[i];
        if (!atomic_load(&rule->on) || !(rule->calls & call) || fnmatch(rule->pattern, name, 0) != 0)
            continue;
        uint64_t n = atomic_fetch_add(&rule->seen, 1) + 1;
        if (!acting && rule->action != COUNT && rule->from <= n && n < rule->to) {
            atomic_fetch_add(&rule->fired, 1);
            acting = rule;
        }
    }
    return acting;
}

static struct rule *by_fd(uint32_t call, int fd) {
    if (!wanted(call))
        return NULL;
    char link[40], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0)
        return NULL;
    path[len] = 0;
    char *gone = strstr(path, " (deleted)");
    if (gone)
        *gone = 0;
    return decide(call, path);
}

static struct rule *by_path(uint32_t call, int dir, const char *name) {
    if (!wanted(call))
        return NULL;
    if (name[0] == '/')
        return decide(call, name);
    if (dir == AT_FDCWD)
        return NULL;
    char link[40], path[2 * PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t len = readlink(link, path, PATH_MAX - 1);
    if (len < 0)
        return NULL;
    snprintf(path + len, sizeof path - (size_t)len, "/%s", name);
    return decide(call, path);
}

static void die(void) {
    for (;;)
        kill(getpid(), SIGKILL);
}

/* What happens instead of, before and after `real`, the call itself; `half` is what half of it is. */
#define ACT(chosen, none, half, real) \
    do {                                                                                                               \
        struct rule *now = (chosen);                                                                                   \
        if (!now)                                                                                                      \
            return real;                                                                                               \
        uint32_t action = now->action;                                                                                 \
        int error = now->error;                                                                                        \
        if (action == SWALLOW)                                                                                         \
            return none;                                                                                               \
        if (action == KILL_HALFWAY || action == FAIL_HALFWAY)                                                          \
            (void)!(half);                                                                                             \
        if (action == KILL_AFTER)                                                                                      \
            (void)!(real);                                                                                             \
        if (action != FAIL && action != FAIL_HALFWAY)                                                                  \
            die();                                                                                                     \
        errno = error;                                                                                                 \
        return -1;                                                                                                     \
    } while (0)

static int do_open(int dir, const char *name, int flags, mode_t mode) {
    ACT(by_path(flags & O_CREAT ? CREATE : OPEN, dir, name), -1, 0, real_openat(dir, name, flags, mode));
}

#define MODE(flags, mode)                                                                                              \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                                                             \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode = va_arg(list, mode_t);                                                                                   \
        va_end(list);                                                                                                  \
    }

int open(const char *name, int flags, ...) {
    MODE(flags, mode)
    return do_open(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    MODE(flags, mode)
    return do_open(AT_FDCWD, name, flags | O_LARGEFILE, mode);
}

int openat(int dir, const char *name, int flags, ...) {
    MODE(flags, mode)
    return do_open(dir, name, flags, mode);
}

int openat64(int dir, const char *name, int flags, ...) {
    MODE(flags, mode)
    return do_open(dir, name, flags | O_LARGEFILE, mode);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off_t off) {
    ACT(by_fd(WRITE, fd), (ssize_t)len, real_pwrite(fd, buf, len / 2, off), real_pwrite(fd, buf, len, off));
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off) { return pwrite64(fd, buf, len, off); }

ssize_t write(int fd, const void *buf, size_t len) {
    ACT(by_fd(WRITE, fd), (ssize_t)len, real_write(fd, buf, len / 2), real_write(fd, buf, len));
}

ssize_t pread64(int fd, void *buf, size_t len, off_t off) {
    ACT(by_fd(READ, fd), 0, 0, real_pread(fd, buf, len, off));
}

ssize_t pread(int fd, void *buf, size_t len, off_t off) { return pread64(fd, buf, len, off); }

int fsync(int fd) { ACT(by_fd(SYNC, fd), 0, 0, real_fsync(fd)); }

int fdatasync(int fd) { ACT(by_fd(SYNC, fd), 0, 0, real_fdatasync(fd)); }

/* A renaming belongs to the file that it makes. */
int rename(const char *from, const char *to) { ACT(by_path(RENAME, AT_FDCWD, to), 0, 0, real_rename(from, to)); }

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    ACT(by_path(RENAME, to_dir, to), 0, 0, real_renameat(from_dir, from, to_dir, to));
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    ACT(by_path(RENAME, to_dir, to), 0, 0, real_renameat2(from_dir, from, to_dir, to, flags));
}

int unlink(const char *name) { ACT(by_path(REMOVE, AT_FDCWD, name), 0, 0, real_unlink(name)); }

int unlinkat(int dir, const char *name, int flags) {
    ACT(by_path(REMOVE, dir, name), 0, 0, real_unlinkat(dir, name, flags));
}

int rmdir(const char *name) { ACT(by_path(REMOVE, AT_FDCWD, name), 0, 0, real_rmdir(name)); }

int mkdir(const char *name, mode_t mode) { ACT(by_path(MKDIR, AT_FDCWD, name), 0, 0, real_mkdir(name, mode)); }

int ftruncate64(int fd, off_t len) { ACT(by_fd(TRUNCATE, fd), 0, 0, real_ftruncate(fd, len)); }

int ftruncate(int fd, off_t len) { return ftruncate64(fd, len); }
