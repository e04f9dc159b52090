/* SPDX-License-Identifier: MIT */
/* What build_trace.py declares to Python. */
#ifndef XENBACKD_TRACE_H
#define XENBACKD_TRACE_H

/* Write the native stack at fatal signals; before faulthandler is enabled. 0 or -errno. */
int trace_install(void);

#endif
