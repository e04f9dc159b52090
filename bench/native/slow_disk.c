/* SPDX-License-Identifier: MIT */
/*
 * For LD_PRELOAD: reads of a file from SLOW_FROM (bytes) on take SLOW_MS milliseconds and cannot
 * be had without waiting, as on a disk whose page cache does not hold them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>

static ssize_t (*real)(int, const struct iovec *, int, off_t, int);
static off_t slow_from;
static struct timespec slow_time;

__attribute__((constructor)) static void find(void)
{
    const char *from = getenv("SLOW_FROM"), *ms = getenv("SLOW_MS");

    real = (ssize_t (*)(int, const struct iovec *, int, off_t, int))dlsym(RTLD_NEXT, "preadv2");
    slow_from = from ? atoll(from) : INT64_MAX;
    slow_time.tv_nsec = (ms ? atol(ms) : 0) * 1000000;
}

ssize_t preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
    off_t end = offset;

    for (int i = 0; i < count; i++)
        end += (off_t)vector[i].iov_len;
    if (end <= slow_from)
        return real(fd, vector, count, offset, flags);
    if (flags & RWF_NOWAIT) {
        errno = EAGAIN;
        return -1;
    }
    nanosleep(&slow_time, NULL);
    return real(fd, vector, count, offset, flags);
}
