# SPDX-License-Identifier: MIT
"""The command `xenbackd`: one module per sub-command, loaded only when it is asked for."""
