# SPDX-License-Identifier: MIT
"""The block device: a raw image served over blkif (xen/include/public/io/blkif.h).

This module reads the two directories, opens the image, maps the ring and binds the channel. All
work per request is in C (native/), behind `blk_run`.

Facts: `sectors` and all values in a request are in units of 512 bytes, whatever `sector-size` says.
A frontend that uses one ring page writes `ring-ref`, otherwise `ring-page-order` and `ring-ref%u`.
An absent `protocol` means the host's own layout.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from typing import Any, Final

from shared.errors import BackendBug, BlamedError, GuestFault, HostError
from shared.hypervisor.interface import PORT_MAX, REFERENCE_MAX, Mapping
from shared.messages import Nodes
from worker import crash
from worker.device import Device, RenewalError
from worker.devices.block.about import BlockOptions
from worker.devices.block.image import Image, measure_again, open_image, parse_params
from worker.devices.block.native._block import ffi, lib
from worker.jail import seccomp
from worker.nodes import BackendNodes, FrontendNodes

VDISK_CDROM: Final = 0x1
VDISK_REMOVABLE: Final = 0x2
VDISK_READONLY: Final = 0x4

RING_PAGES_MAX: Final = 16
GRANTS_MAX: Final = 65536
"""Pages that a grant handle can map at most."""
PROTOCOLS: Final = ("x86_64-abi", "x86_32-abi", "arm-abi")
DETACH_SHARE: Final = 0.8
"""Share of `drain` the disk may take for what is in flight; the rest is for the error's report."""

_COUNTERS: Final = tuple(name for name, _ in ffi.typeof("struct blk_counters").fields)
_ENGINES: Final = {"auto": lib.BLK_ENGINE_AUTO, "sync": lib.BLK_ENGINE_SYNC}


class BlockDevice(Device):
    """One disk."""

    options: BlockOptions

    _image: Image | None = None
    _native: Any = None
    """`struct blk_dev *` while there is an image."""
    _ring: Mapping | None = None
    _mode_writable = False
    _stray_events = 0
    _poisoned = 0
    _sealed = False
    """No grant can be mapped or copied any more."""

    @classmethod
    def max_grants(cls, options: BlockOptions) -> int:
        """The ring's pages and those that stay mapped; everything else is copied."""
        return min(RING_PAGES_MAX + options.max_persistent_grants, GRANTS_MAX)

    # --- hooks

    def init(self, backend: Nodes) -> Nodes:
        """Open the image and say what the disk can do (S12).

        A jailed worker keeps the image open from one connection to the next, like the kernel's
        backend, because it could not open it again. It measures the image again.
        """
        nodes = BackendNodes(backend)
        path = parse_params(nodes.text("params"))
        writable = nodes.choice("mode", ("r", "w")) == "w"
        wanted = self.options.discard and nodes.flag("discard-enable", default=True)
        _info(nodes)  # what is wrong there is better said now
        image = self._take_image(path, writable=writable)
        discard = wanted and writable and image.discard_granularity > 0
        self._open_native(image, discard=discard)
        # A guest that connects again and again causes this line each time.
        self.log.guest(logging.DEBUG, "image: %s: %d sectors", path, image.sectors)
        return self._features(image, discard=discard)

    def initialise(self, backend: Nodes, untrusted_frontend: Nodes, *, resume: bool) -> Nodes:
        """Map the ring, bind the channel and take the ring up (S13)."""
        if self._image is None or self._native is None:
            raise BackendBug(f"initialise: {self.device}: not after init")
        frontend = FrontendNodes(untrusted_frontend)
        refs = self._ring_refs(frontend)
        remote_port = frontend.integer("event-channel", 1, PORT_MAX)
        protocol = frontend.choice("protocol", PROTOCOLS, default=PROTOCOLS[0])
        persistent = self.options.grants != "copy" and frontend.flag("feature-persistent")
        if self.options.grants == "sealed" and not persistent:
            self.log.warning("grants: cannot be sealed: the frontend has no persistent ones")
        self._ring = self.grant_table.map(self.device.domid, refs, writable=True)
        try:
            self.bind(remote_port)
            connection = {
                "order": len(refs).bit_length() - 1,
                "layout32": protocol == "x86_32-abi",
                "remote_port": remote_port,
                "refs": refs,
            }
            self._attach(connection, persistent=persistent, resume=resume)
        except BaseException:
            self._release_ring()
            raise
        return {
            "sectors": b"%d" % self._image.sectors,
            "sector-size": b"%d" % self._image.sector_size,
            "physical-sector-size": b"%d" % self._image.physical_sector_size,
            "info": b"%d" % (_info(BackendNodes(backend)) | self._readonly_flag()),
        }

    def disconnect(self) -> None:
        """Answer what is in flight; give ring, grants and channel back (S15)."""
        if self._native is not None:
            error = lib.blk_detach(self._native, int(self.drain * DETACH_SHARE * 1000))
            if error:
                # The disk may still write into the guest's pages: nothing can be given back but
                # by the end of this process. It has had its time: the next try only looks.
                self.drain = 0.0
                raise HostError(f"disconnect: {self.device}: {os.strerror(-error)}")
        self._release_ring()
        self._close_native()

    def free(self) -> None:
        """Nothing outlives the device (S8)."""
        self.disconnect()
        self._close_image()

    def counters(self) -> dict[str, int]:
        """All counters of the data plane (struct blk_counters)."""
        if self._native is None:
            return {}
        out = ffi.new("struct blk_counters *")
        lib.blk_counters(self._native, out)
        return {name: getattr(out, name) for name in _COUNTERS}

    def run(self, wake_fds: Sequence[int], timeout: float) -> None:
        """Serve the ring in C.

        Raises:
            GuestFault: the indices in the ring make no sense.
            HostError: the event-channel handle broke.
        """
        reason = lib.blk_run(self._native, list(wake_fds), len(wake_fds), int(timeout * 1000) + 1)
        status = self._status()
        self._report(status)
        if status.sealable and self.options.grants == "sealed":
            self._seal()
        if reason == lib.BLK_FAULT:
            raise self._fault()

    # --- parts

    def _seal(self) -> None:
        """The frontend has shown all pages that it can need: give up mapping and copying others.

        In a jail the kernel enforces this; without one only this program does.
        """
        if self.jailed:
            seccomp.seal()
        lib.blk_seal(self._native)
        self._sealed = True
        self.log.info("grants: sealed, %d mapped", self.counters()["persistent_grants"])

    def _take_image(self, path: str, *, writable: bool) -> Image:
        """Open the image; in a jail take the open one, if it is the same."""
        self._close_native()
        if self._sealed:
            raise RenewalError("grants: sealed for the last connection")
        if self.jailed:
            image = self._image
            if image is None or (image.path, self._mode_writable) != (path, writable):
                raise RenewalError(f"image: {path}: is not the one that is open")
            self._image = measure_again(image)
            return self._image
        self._close_image()
        self._mode_writable = writable
        self._image = open_image(
            path,
            writable=writable,
            direct_io=self.options.direct_io,
            directories=self.options.directories,
        )
        return self._image

    def _features(self, image: Image, *, discard: bool) -> Nodes:
        nodes = {
            "feature-flush-cache": b"%d" % self.options.flush,
            "feature-persistent": b"%d" % (self.options.grants != "copy"),
            "feature-discard": b"%d" % discard,
            "max-ring-page-order": b"%d" % self.options.ring_page_order,
        }
        if discard:
            nodes["discard-granularity"] = b"%d" % image.discard_granularity
            nodes["discard-alignment"] = b"0"
            nodes["discard-secure"] = b"0"
        return nodes

    def _readonly_flag(self) -> int:
        return 0 if self._mode_writable else VDISK_READONLY

    def _ring_refs(self, frontend: FrontendNodes) -> list[int]:
        """The references of the ring's pages: as many as the order says."""
        order = frontend.integer("ring-page-order", 0, self.options.ring_page_order, default=0)
        names = [f"ring-ref{i}" for i in range(1 << order)]
        if order == 0 and "ring-ref0" not in frontend:
            names = ["ring-ref"]
        refs = [frontend.integer(name, 1, REFERENCE_MAX) for name in names]
        for i, ref in enumerate(refs):
            if ref in refs[:i]:
                raise GuestFault(f"frontend node: {names[i]}: {ref} is given twice")
        return refs

    def _open_native(self, image: Image, *, discard: bool) -> None:
        options = self.options
        config = ffi.new(
            "struct blk_config *",
            {
                "hv": ffi.cast("struct hv_ops *", self.handles.native_ops),
                # So that the successor tells a crash from a kill (blk_journal.c).
                "crash": ffi.cast("struct plane_crash *", crash.watch()),
                "disk": ffi.NULL,
                "fd": image.fd,
                "domid": self.device.domid,
                "sectors": image.sectors,
                "sector_size": image.sector_size,
                "read_only": not self._mode_writable,
                "flush": options.flush,
                "discard": discard,
                "engine": _ENGINES[options.engine],
                "direct_io": options.direct_io,
                "io_threads": options.io_threads,
                "poll_us": options.poll_us,
                "max_persistent": options.max_persistent_grants,
            },
        )
        native = lib.blk_open(config)
        if native == ffi.NULL:
            raise HostError(f"init: {self.device}: {os.strerror(ffi.errno)}")
        self._native = native
        self._stray_events = self._poisoned = 0  # it counts from its opening on

    def _attach(self, connection: dict[str, Any], *, persistent: bool, resume: bool) -> None:
        assert self._ring is not None
        config = ffi.new(
            "struct blk_ring_config *",
            {
                "ring": ffi.cast("void *", self._ring.address),
                "connection": connection,
                "port": self.port,
                "persistent": persistent,
                "resume": resume,
                "journal_fd": self.journal,
                "journal": self.options.journal,
            },
        )
        error = lib.blk_attach(self._native, config)
        if error:
            raise self._attach_error(error)
        counters = self.counters()
        if counters["reissued"] or counters["reanswered"]:
            self.log.info(
                "journal: of the last worker's requests %d are run again, %d answered again",
                counters["reissued"],
                counters["reanswered"],
            )

    def _attach_error(self, error: int) -> BlamedError:
        if error == -errno.EPROTO:
            return self._fault()
        if error == -errno.EBADMSG:
            what = ffi.string(self._status().journal_broken)
            assert isinstance(what, bytes)
            return BackendBug(f"journal: {self.device}: damaged: {what.decode()}")
        if error == -errno.ENODATA:
            return HostError(
                f"journal: {self.device}: lost; which of the ring's requests have an answer is not"
                " known"
            )
        return HostError(f"initialise: {self.device}: {os.strerror(-error)}")

    def _status(self) -> Any:
        status = ffi.new("struct blk_status *")
        lib.blk_status(self._native, status)
        return status

    def _fault(self) -> GuestFault | HostError:
        status = self._status()
        if status.fault == lib.BLK_FAULT_RESPONSES:
            return GuestFault(f"ring: {self.device}: rsp_prod is not {status.rsp_prod}, as it was")
        if status.fault == lib.BLK_FAULT_OVERFLOW:
            return GuestFault(
                f"ring: {self.device}: req_prod {status.untrusted_req_prod} makes no sense:"
                f" {status.slots} slots, rsp_prod {status.rsp_prod}, req_cons {status.req_cons}"
            )
        return HostError(f"event channel: {self.device}: {os.strerror(status.error)}")

    def _report(self, status: Any) -> None:
        if status.stray_events != self._stray_events:
            self._stray_events = status.stray_events
            self.log.error("event channel: port %d is not ours (%s)", status.stray_port, self.port)
        if status.poisoned != self._poisoned:
            self._poisoned = status.poisoned
            self.log.guest(
                logging.ERROR,
                "request: operation %d, offset %d, %d bytes: in hand at death after death of the"
                " worker; answered with an error (%d such)",
                status.poison_operation,
                status.poison_offset,
                status.poison_length,
                status.poisoned,
            )

    def _release_ring(self) -> None:
        self.unbind()
        if self._ring is not None:
            ring, self._ring = self._ring, None
            ring.unmap()

    def _close_native(self) -> None:
        if self._native is not None:
            native, self._native = self._native, None
            lib.blk_close(native)

    def _close_image(self) -> None:
        if self._image is not None:
            image, self._image = self._image, None
            os.close(image.fd)


def _info(nodes: BackendNodes) -> int:
    """VDISK_* flags of the toolstack's nodes; the device type is `disk` or `cdrom`."""
    cdrom = nodes.choice("device-type", ("disk", "cdrom"), "disk") == "cdrom"
    removable = nodes.flag("removable", default=False)
    return VDISK_CDROM * cdrom | VDISK_REMOVABLE * removable
