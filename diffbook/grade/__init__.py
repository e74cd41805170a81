"""The grader: hand-ins run in a box apart, and are judged by the numbers that come out.

``python -m diffbook grade FOLDER --assignment A2`` grades a folder. Who does what:

- the *grader* (:mod:`.batch`, :mod:`.marking`) has the hidden tests and the right answers, and
  never runs a student's code;
- the *nursery* (:mod:`.nursery`) has imported torch, has no tests, and forks the boxes;
- the *box* (:mod:`.box`, :mod:`.child`) runs one hand-in, with no network, no other files, few
  rights and hard limits, and answers calls with plain numbers (:mod:`.wire`).

What this does not protect from: see the page "For the instructor", and use a container around it
where marks matter much.
"""
