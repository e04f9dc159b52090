/* SPDX-License-Identifier: MIT */
/*
 * Where a worker is in C when a fatal signal comes, as lines on stderr.
 *
 * Meant to come after Python's faulthandler, which writes the Python stack, puts back the handler
 * it found (this one) and raises the signal again. This one writes the native stack and lets the
 * default action end the process, so the exit status names the signal.
 *
 * backtrace(3) loads libgcc and allocates at its first call only, which is made beforehand; after
 * that it walks the stack through the signal frame. backtrace_symbols_fd takes the dynamic
 * linker's lock: a worker stuck while it holds that lock gets no trace, and SIGKILL ends it.
 * Nothing here is async-signal-safe to the letter; the process ends anyway.
 */
#include <errno.h>
#include <execinfo.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "trace.h"

#define FRAMES_MAX 64

static const int fatal[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static void on_fatal(int number)
{
    static const char head[] = "Native trace (most recent call first):\n";
    struct sigaction action = {.sa_handler = SIG_DFL};
    void *frames[FRAMES_MAX];
    int count = backtrace(frames, FRAMES_MAX);

    if (write(STDERR_FILENO, head, sizeof(head) - 1) > 0)
        backtrace_symbols_fd(frames, count, STDERR_FILENO);
    sigaction(number, &action, NULL);
    raise(number);
}

int trace_install(void)
{
    /* On the alternate stack that faulthandler makes, if any: the stack itself may be broken. */
    struct sigaction action = {.sa_handler = on_fatal, .sa_flags = SA_ONSTACK | SA_NODEFER};
    void *frame[1];

    backtrace(frame, 1);
    for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
        if (sigaction(fatal[i], &action, NULL) < 0)
            return -errno;
    }
    return 0;
}
