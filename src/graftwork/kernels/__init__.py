"""Compiled block loops and reductions that merge methods share.

Loops are pure: arrays and numbers in, arrays out. They are compiled by Numba at their first call; importing this room does not
import Numba. File names say what a file knows:

- `loop`: how a function becomes compiled code;
- `rows`: a block of several models as one run of memory;
- `convert`: raw elements of a file to numbers and back;
- `sums`: sums whose result does not depend on blocks or threads;
- `gram`: lengths and angles of models, and the combinations that follow from them;
- `largest`: the k largest magnitudes of a tensor or of a model, without sorting;
- `chain`: a reduction that needs to know what another one found;
- `masks`: random masks drawn by position;
- `ranks`: random masks whose probability rises with an element's rank in its unit;
- `spread`: how far models are apart, entry by entry;
- `overlap`: entries told apart by how many models moved them;
- `divergence`: how different the softmax of two vectors is, unit by unit;
- `deltas`: sums, trimming and sign election of differences from a base.
"""
