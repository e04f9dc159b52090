# SPDX-License-Identifier: MIT
"""A xenstore server that speaks the real wire protocol on UNIX sockets."""
