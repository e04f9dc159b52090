# SPDX-License-Identifier: MIT
"""`xenbackd-device-model`: what libxl starts in QEMU's place, so that we serve the devices."""
