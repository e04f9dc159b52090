/* SPDX-License-Identifier: MIT */
/*
 * The jail's system calls, see jail.h. Nothing is decided here: which, in what order and what may
 * fail stands in worker/jail.
 */
#define _GNU_SOURCE
#include "jail.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The same on x86_64 and aarch64; headers older than the calls do not name them. */
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif

/* struct landlock_ruleset_attr (linux/landlock.h) as of interface version 6. */
struct ruleset {
    uint64_t files, network, scopes;
};

#define RULESET_VERSION 1u

static int result(long value)
{
    return value < 0 ? -errno : (int)value;
}

int jail_close_range(unsigned int first, unsigned int last)
{
    return result(syscall(SYS_close_range, first, last, 0));
}

int jail_prctl(int option, unsigned long value)
{
    return result(prctl(option, value, 0, 0, 0));
}

int jail_drop_bounding(void)
{
    for (unsigned long capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++) {
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return -errno;
    }
    return 0;
}

int jail_capget(int thread, struct jail_caps *out)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, thread};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0, 0, 0}, {0, 0, 0}};
    int error = result(syscall(SYS_capget, &header, data));

    out->effective = data[0].effective | (uint64_t)data[1].effective << 32;
    out->permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
    out->inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
    return error;
}

int jail_capset(const struct jail_caps *caps)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
        {(uint32_t)caps->effective, (uint32_t)caps->permitted, (uint32_t)caps->inheritable},
        {(uint32_t)(caps->effective >> 32), (uint32_t)(caps->permitted >> 32),
         (uint32_t)(caps->inheritable >> 32)},
    };

    return result(syscall(SYS_capset, &header, data));
}

int jail_unshare(int flags)
{
    return result(unshare(flags));
}

int jail_setns(int namespace, int type)
{
    return result(setns(namespace, type));
}

int jail_mount(const char *source, const char *target, const char *type, unsigned long flags,
               const char *data)
{
    return result(mount(source, target, type, flags, data));
}

int jail_umount(const char *target, int flags)
{
    return result(umount2(target, flags));
}

int jail_pivot_root(const char *new_root, const char *put_old)
{
    return result(syscall(SYS_pivot_root, new_root, put_old));
}

int jail_landlock_abi(void)
{
    return result(syscall(SYS_landlock_create_ruleset, NULL, 0, RULESET_VERSION));
}

int jail_landlock(uint64_t files, uint64_t network, uint64_t scopes)
{
    struct ruleset ruleset = {files, network, scopes};
    /* An older kernel knows fewer fields and takes a longer structure only if the rest is 0. */
    long rules = syscall(SYS_landlock_create_ruleset, &ruleset, sizeof(ruleset), 0);
    int error;

    if (rules < 0)
        return -errno;
    error = result(syscall(SYS_landlock_restrict_self, rules, 0));
    close((int)rules);
    return error;
}
