"""The soak: releases on a stack with two of every service whose processes are killed at random, and what must hold."""
