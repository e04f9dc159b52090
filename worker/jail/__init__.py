# SPDX-License-Identifier: MIT
"""The jail: what confines a worker."""
