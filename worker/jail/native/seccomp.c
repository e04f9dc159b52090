/* SPDX-License-Identifier: MIT */
/* seccomp(2), for which the C library has no wrapper. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "seccomp.h"

int seccomp_no_new_privs(void)
{
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

int seccomp_load(const void *program, uint16_t count, int log)
{
    struct sock_fprog filter = {count, (struct sock_filter *)(uintptr_t)program};
    /* TSYNC gives the other threads this one's filters, and no_new_privs. */
    unsigned long flags = SECCOMP_FILTER_FLAG_TSYNC | (log ? SECCOMP_FILTER_FLAG_LOG : 0);
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter);

    return result < 0 ? -errno : (int)result;
}

int seccomp_available(void)
{
    /* A kernel that knows call and flag then fails to read the filter (seccomp(2)). */
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, NULL) < 0 &&
           errno == EFAULT;
}

int seccomp_knows(uint32_t verdict)
{
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &verdict) == 0;
}
