/* SPDX-License-Identifier: MIT */
/* Grant entries as the hypervisor pins them and their owner writes them, callable from Python. */
#include "embedded.h"
#include "grant_entry.h"

/* A domain that keeps changing its entry loses after this many tries, as on Xen. */
#define PIN_ATTEMPTS 5

/*
 * Mark an entry as in use (GTF_reading, GTF_writing), after the checks. The frame is read once,
 * after the mark: what the owner does to the entry later changes nothing.
 */
int embedded_grant_pin(uintptr_t address, uint16_t domid, int writable, uint32_t pages,
                       uint32_t *frame)
{
    struct grant_entry_v1 *entry = (struct grant_entry_v1 *)address;
    uint64_t *word = (uint64_t *)address;
    uint16_t marks = writable ? GTF_READING | GTF_WRITING : GTF_READING;
    int attempt;

    for (attempt = 0; attempt < PIN_ATTEMPTS; attempt++) {
        struct grant_entry_v1 untrusted_entry = grant_entry_read(entry), marked = untrusted_entry;
        int status = grant_entry_check(untrusted_entry, domid, writable, pages);
        uint64_t before, after;

        if (status != HV_GNT_OKAY)
            return status;
        marked.flags |= marks;
        memcpy(&before, &untrusted_entry, sizeof(before));
        memcpy(&after, &marked, sizeof(after));
        if (__atomic_compare_exchange_n(word, &before, after, 0, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            *frame = untrusted_entry.frame;
            return HV_GNT_OKAY;
        }
    }
    return HV_GNT_GENERAL_ERROR;
}

/* Clear marks of an entry. */
void embedded_grant_unpin(uintptr_t address, uint16_t flags)
{
    struct grant_entry_v1 *entry = (struct grant_entry_v1 *)address;

    __atomic_fetch_and(&entry->flags, (uint16_t)~flags, __ATOMIC_ACQ_REL);
}

void embedded_grant_set(uintptr_t address, uint16_t flags, uint16_t domid, uint32_t frame)
{
    grant_entry_set((struct grant_entry_v1 *)address, flags, domid, frame);
}

int embedded_grant_end_access(uintptr_t address)
{
    return grant_entry_end_access((struct grant_entry_v1 *)address);
}

void embedded_set_alive(uintptr_t address, uint32_t alive)
{
    __atomic_store_n(&((struct embedded_header *)address)->alive, alive, __ATOMIC_RELEASE);
}
