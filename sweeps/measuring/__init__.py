"""How fast, how large, how hungry: timing, machine, roofline, comparison, cost. Needs no video decoder."""
