/* SPDX-License-Identifier: MIT */
/* The C library's heap. cffi reads this file too: plain declarations only. */
#ifndef XENBACKD_HEAP_H
#define XENBACKD_HEAP_H

/* Keep this process and its forks small: one malloc arena, memory given back early. */
void heap_keep_small(void);

#endif
