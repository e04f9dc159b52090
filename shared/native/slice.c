/* SPDX-License-Identifier: MIT */
/*
 * How long the scheduler lets the calling thread run at a stretch. A thread that asks for less runs
 * sooner after a wake-up: if its slice is shorter than the running thread's, it need not wait for
 * that one to end (kernel/sched/fair.c, PREEMPT_SHORT). Its share of the CPU stays the same.
 *
 * And where it runs: on one CPU for a while. In C, because a starting worker must use little of
 * Python: it shares all of it with others until it uses it.
 */
#define _GNU_SOURCE
#include "slice.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct sched_attr of linux/sched/types.h, its first version; the C library has none. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static int get(struct attributes *out)
{
    return syscall(SYS_sched_getattr, 0, out, (unsigned)sizeof(*out), 0) < 0 ? -errno : 0;
}

int64_t slice_get(void)
{
    struct attributes attributes;
    int error = get(&attributes);

    return error ? error : (int64_t)attributes.runtime;
}

int slice_set(uint64_t nanoseconds)
{
    struct attributes attributes;
    int error = get(&attributes);

    if (error)
        return error;
    /* Other classes have no slices, and in the deadline class this field is the budget. */
    if (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH)
        return 0;
    attributes.size = sizeof(attributes);
    attributes.runtime = nanoseconds;
    return syscall(SYS_sched_setattr, 0, &attributes, 0) < 0 ? -errno : 0;
}

#define CPUS 8192 /* more than any kernel for Linux is built for */
#define WORD (8 * sizeof(unsigned long))

/* Where this process could run before slice_stay, as the kernel has it; size 0: not known. */
static unsigned long before[CPUS / WORD];
static long before_size;

int slice_stay(void)
{
    unsigned long here[CPUS / WORD] = {0};
    int cpu = sched_getcpu();
    long size = cpu < 0 ? -1 : syscall(SYS_sched_getaffinity, 0, sizeof(before), before);

    if (size < 0)
        return -errno;
    here[cpu / WORD] = 1ul << cpu % WORD;
    if (syscall(SYS_sched_setaffinity, 0, size, here) < 0)
        return -errno;
    before_size = size;
    return 0;
}

int slice_roam(void)
{
    long size = before_size;
    int error = 0;
    DIR *tasks;

    if (!size)
        return 0;
    tasks = opendir("/proc/self/task");
    if (!tasks)
        return -errno;
    before_size = 0;
    for (struct dirent *task; (task = readdir(tasks));) {
        int thread = atoi(task->d_name); /* 0 for "." and ".." */

        if (thread && syscall(SYS_sched_setaffinity, thread, size, before) < 0 && errno != ESRCH)
            error = -errno;
    }
    closedir(tasks);
    return error;
}
