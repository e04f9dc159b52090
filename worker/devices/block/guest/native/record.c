/* SPDX-License-Identifier: MIT */
/*
 * When each I/O began and ended, to find out later what happened to one at a given moment. Kept in
 * memory and written in pieces: a write for each would slow the load down.
 */
#include <errno.h>
#include <unistd.h>

#include "load.h"

void load_write_records(struct load *load)
{
    const char *at = (const char *)load->records;
    size_t left = load->record_count * sizeof load->records[0];
    load->record_count = 0;
    while (left && !load->record_error) {
        ssize_t done = write(load->config->record_fd, at, left);
        if (done > 0) {
            at += done;
            left -= (size_t)done;
        } else if (done == 0 || errno != EINTR) {
            load->record_error = done ? -errno : -EIO;
        }
    }
}

void load_record(struct load *load, const struct io *io)
{
    if (load->config->record_fd < 0)
        return;
    load->records[load->record_count++] =
        (struct front_record){.start_ns = io->start, .end_ns = load->now};
    if (load->record_count == LOAD_RECORDS)
        load_write_records(load);
}
