# SPDX-License-Identifier: MIT
"""Worker processes: how they are started, spoken to, watched, ended and adopted.

What a worker is to do next is decided above, by its device.
"""
