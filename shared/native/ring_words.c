/* SPDX-License-Identifier: MIT */
/* Ring indices for Python, see ring_words.h. */
#include "ring_words.h"

#include "shared/native/barrier.h"

static volatile uint32_t *word(uintptr_t address)
{
    return (volatile uint32_t *)address;
}

uint32_t word_load_acquire(uintptr_t address)
{
    return load_acquire32(word(address));
}

void word_store_release(uintptr_t address, uint32_t value)
{
    store_release32(word(address), value);
}

int ring_push(uintptr_t producer, uintptr_t event, uint32_t old, uint32_t new_index)
{
    store_release32(word(producer), new_index);
    /* The peer stores its event index, then loads our producer: one of us must see the other. */
    full_barrier();
    return (uint32_t)(new_index - load_acquire32(word(event))) < (uint32_t)(new_index - old);
}

uint32_t ring_final_check(uintptr_t producer, uintptr_t event, uint32_t consumer)
{
    uint32_t untrusted_producer = load_acquire32(word(producer));

    if (untrusted_producer != consumer)
        return untrusted_producer;
    store_release32(word(event), consumer + 1);
    full_barrier();
    return load_acquire32(word(producer));
}
