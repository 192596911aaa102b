"""The method at small scale, from films to claims: what is run, how it is judged, and the page about it."""
