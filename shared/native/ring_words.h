/* SPDX-License-Identifier: MIT */
/*
 * Ring indices for Python, which cannot order memory accesses. An address is that of one aligned
 * 32-bit word. Macros with the same meaning: xen/include/public/io/ring.h.
 */
#ifndef XENBACKD_RING_WORDS_H
#define XENBACKD_RING_WORDS_H

#include <stdint.h>

uint32_t word_load_acquire(uintptr_t address);
void word_store_release(uintptr_t address, uint32_t value);

/*
 * Publish a producer index and say whether the peer asked to be told: 1 if its event index lies
 * in (old, new]. `old` is the caller's own copy, since the peer can change the word in the ring.
 */
int ring_push(uintptr_t producer, uintptr_t event, uint32_t old, uint32_t new_index);

/*
 * Before going to sleep: ask for an event at the next entry, then look once more. Returns the
 * producer index, untrusted; it differs from `consumer` if something came in between.
 */
uint32_t ring_final_check(uintptr_t producer, uintptr_t event, uint32_t consumer);

#endif
