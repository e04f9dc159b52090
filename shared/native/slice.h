/* SPDX-License-Identifier: MIT */
/* What build_slice.py declares to Python. */
#ifndef XENBACKD_SLICE_H
#define XENBACKD_SLICE_H

#include <stdint.h>

/* Nanoseconds the calling thread is run at a stretch; 0 before Linux 6.12; or -errno. */
int64_t slice_get(void);

/*
 * Ask for a slice of so many, for the calling thread and those it starts. 0, or -errno. Before
 * Linux 6.12, and in a class that has no slices, nothing is done.
 */
int slice_set(uint64_t nanoseconds);

#endif
