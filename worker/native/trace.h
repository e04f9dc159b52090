/* SPDX-License-Identifier: MIT */
/* Native stacks at fatal signals. cffi reads this file too: plain declarations only. */
#ifndef XENBACKD_TRACE_H
#define XENBACKD_TRACE_H

/* Write the native stack at fatal signals; before faulthandler is enabled. 0 or -errno. */
int trace_install(void);

#endif
