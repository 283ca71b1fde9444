# SPDX-License-Identifier: MIT
"""The pure state machine: events in, actions out. No I/O, clock, randomness, flux or print in here."""
