/* SPDX-License-Identifier: MIT */
/*
 * The handler behind crash marks, see crash.h. Installed in a process that serves one device, after
 * the handlers that write stacks: it marks first, and they come next.
 */
#include "crash.h"

#include <signal.h>
#include <stdbool.h>

#include "worker/plane/crash.h"

static const int CRASHES[] = PLANE_CRASH_SIGNALS;
#define CRASH_COUNT (sizeof(CRASHES) / sizeof(CRASHES[0]))

static struct sigaction before_us[CRASH_COUNT];
static bool watching;
/* The handler has no other way to the word. */
static struct plane_crash marks;

static void on_crash(int number)
{
    uint32_t *word = marks.word;

    if (word)
        *word = 1;
    for (size_t i = 0; i < CRASH_COUNT; i++) {
        if (CRASHES[i] == number)
            sigaction(number, &before_us[i], NULL);
    }
    /* Blocked while we are in here: it comes when we return, and goes where it went before. */
    raise(number);
}

struct plane_crash *crash_watch(void)
{
    struct sigaction action = {.sa_handler = on_crash, .sa_flags = SA_ONSTACK};

    if (watching)
        return &marks;
    watching = true;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < CRASH_COUNT; i++)
        sigaction(CRASHES[i], &action, &before_us[i]);
    return &marks;
}
