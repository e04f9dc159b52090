/* SPDX-License-Identifier: MIT */
/*
 * Memory ordering on shared rings. The peer runs on another CPU and is not compiled with us, so
 * every shared index is read and written by these functions, exactly once per use.
 *
 * - A producer index is loaded with acquire: what it covers is visible after it.
 * - It is stored with release: what it covers is visible before it.
 * - The notify check ("did the peer ask for an event?") needs a full barrier between our store of
 *   the index and our load of its event index (xen/include/public/io/ring.h,
 *   RING_PUSH_RESPONSES_AND_CHECK_NOTIFY): even on x86 a store may pass a later load.
 */
#ifndef XENBACKD_BARRIER_H
#define XENBACKD_BARRIER_H

#include <stdint.h>

static inline uint32_t load_acquire32(const volatile uint32_t *address)
{
    return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}

static inline void store_release32(volatile uint32_t *address, uint32_t value)
{
    __atomic_store_n(address, value, __ATOMIC_RELEASE);
}

static inline void store_release64(volatile uint64_t *address, uint64_t value)
{
    __atomic_store_n(address, value, __ATOMIC_RELEASE);
}

static inline void full_barrier(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

#endif
