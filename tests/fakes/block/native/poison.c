/* SPDX-License-Identifier: MIT */
/* For LD_PRELOAD: a process that reads the 4 KiB at POISON_OFFSET of a file crashes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/uio.h>

ssize_t preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t, int) =
        (ssize_t (*)(int, const struct iovec *, int, off_t, int))dlsym(RTLD_NEXT, "preadv2");
    const char *poison = getenv("POISON_OFFSET");
    off_t end = offset;

    for (int i = 0; i < count; i++)
        end += (off_t)vector[i].iov_len;
    if (poison && offset <= atoll(poison) && atoll(poison) < end)
        *(volatile int *)0 = 0;
    return real(fd, vector, count, offset, flags);
}
