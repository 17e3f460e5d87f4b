"""Digital patients whose answer is known: anatomy → tissue maps → simulated scanner → simulated readers.

A case is a pure function of ``(options, index)``. The cohort written is an ordinary cohort; what only a
simulation can know (true lesions, keep-probabilities, their joint law) is sealed beside it.
"""
