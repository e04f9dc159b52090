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
#include <stdint.h>
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

/* Nanoseconds; the kernel takes no less. */
#define SHORTEST 100000u

/* 0, or -errno. Before Linux 6.12 the kernel takes it and does nothing. */
int slice_shorten(void)
{
    struct attributes attributes;

    if (syscall(SYS_sched_getattr, 0, &attributes, (unsigned)sizeof(attributes), 0) < 0)
        return -errno;
    /* Another class has no slices, and in the deadline class this field is the budget. */
    if (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH)
        return 0;
    attributes.size = sizeof(attributes);
    attributes.runtime = SHORTEST;
    if (syscall(SYS_sched_setattr, 0, &attributes, 0) < 0)
        return -errno;
    return 0;
}
