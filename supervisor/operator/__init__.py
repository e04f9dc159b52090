# SPDX-License-Identifier: MIT
"""What the operator may ask of a running supervisor, and what it answers."""
