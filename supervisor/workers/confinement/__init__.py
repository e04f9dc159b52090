# SPDX-License-Identifier: MIT
"""What the supervisor prepares for a worker's jail: user id, control group, the socket's directory.

The worker confines itself with it (worker/jail).
"""
