/* SPDX-License-Identifier: MIT */
/* The C library's heap, see heap.h. */
#include "heap.h"

#include <malloc.h>

void heap_keep_small(void)
{
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TRIM_THRESHOLD, 64 * 1024);
}
