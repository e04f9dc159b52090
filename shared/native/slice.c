/* SPDX-License-Identifier: MIT */
/*
 * How long the scheduler lets the calling thread run at a stretch. Who asks for less is run sooner
 * after a wake-up: with a slice shorter than that of the running thread it need not wait for that
 * one's to end (kernel/sched/fair.c, PREEMPT_SHORT). The share of the CPU stays the same.
 */
#define _GNU_SOURCE
#include "slice.h"

#include <errno.h>
#include <sched.h>
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
    /* Another class has no slices, and in the deadline class this field is the budget. */
    if (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH)
        return 0;
    attributes.size = sizeof(attributes);
    attributes.runtime = nanoseconds;
    return syscall(SYS_sched_setattr, 0, &attributes, 0) < 0 ? -errno : 0;
}
