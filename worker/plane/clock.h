/* SPDX-License-Identifier: MIT */
/* The only clock of a data plane: monotonic, in nanoseconds. */
#ifndef XENBACKD_PLANE_CLOCK_H
#define XENBACKD_PLANE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t plane_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
