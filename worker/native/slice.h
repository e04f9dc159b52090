/* SPDX-License-Identifier: MIT */
/* What build_slice.py declares to Python. */
#ifndef XENBACKD_SLICE_H
#define XENBACKD_SLICE_H

int slice_shorten(void);

#endif
