/**
 * Selection without sorting everything. The order throughout: larger value first, lower place first among equals; so
 * every answer is unique.
 */

/** Whether place `a` comes before place `b`. */
const before = (values: Float32Array | Float64Array, a: number, b: number): boolean => {
  const x = values[a]!;
  const y = values[b]!;
  return x > y || (x === y && a < b);
};

/**
 * Places of the first `k` of `values[0..count)` in order. One pass with a heap of k: O(count + k log k) for values in
 * no particular order, O(count log k) at worst. `heap` is room for at least min(k, count) places; what is returned
 * is a part of it. NaN must not occur.
 */
export function topPlaces(
  values: Float32Array | Float64Array,
  count: number,
  k: number,
  heap: Int32Array,
): Int32Array {
  const size = Math.min(k, count);
  // The root is the last of those kept so far: the one that a better place drives out.
  const siftDown = (from: number, end: number) => {
    const place = heap[from]!;
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= end) break;
      if (child + 1 < end && before(values, heap[child]!, heap[child + 1]!)) child++;
      if (!before(values, place, heap[child]!)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = place;
  };
  for (let i = 0; i < size; i++) heap[i] = i;
  for (let i = (size >> 1) - 1; i >= 0; i--) siftDown(i, size);
  let bar = size > 0 ? values[heap[0]!]! : Infinity;
  for (let i = size; i < count; i++) {
    // Later places lose ties, so only a strictly larger value enters.
    if (values[i]! <= bar) continue;
    heap[0] = i;
    siftDown(0, size);
    bar = values[heap[0]!]!;
  }
  for (let end = size - 1; end > 0; end--) {
    const last = heap[0]!;
    heap[0] = heap[end]!;
    heap[end] = last;
    siftDown(0, end);
  }
  return heap.subarray(0, size);
}

/**
 * Finds the shortest run of places, in the order of `keys`, whose `masses` sum to at least `target`: brings them to
 * the front of `places[0..count)`, in no particular order, and returns how many they are. Where the sum never reaches
 * the target, that is all of them. Expected O(count), by quickselect on masses. NaN must not occur.
 */
export function selectMass(
  keys: Float64Array,
  masses: Float64Array,
  places: Int32Array,
  count: number,
  target: number,
): number {
  let low = 0;
  let high = count;
  let missing = target;
  while (high - low > 1) {
    const pivot = medianOfThree(keys, places[low]!, places[(low + high) >> 1]!, places[high - 1]!);
    // Those before the pivot come to the front of [low, high); then the pivot; then those behind it.
    let split = low;
    let mass = 0;
    let pivotAt = -1;
    for (let i = low; i < high; i++) {
      const place = places[i]!;
      if (place === pivot) {
        pivotAt = i;
        continue;
      }
      if (!before(keys, place, pivot)) continue;
      places[i] = places[split]!;
      if (pivotAt === split) pivotAt = i;
      places[split++] = place;
      mass += masses[place]!;
    }
    places[pivotAt] = places[split]!;
    places[split] = pivot;
    if (split > low && mass >= missing) {
      high = split;
    } else if (mass + masses[pivot]! >= missing) {
      return split + 1;
    } else {
      missing -= mass + masses[pivot]!;
      low = split + 1;
    }
  }
  return high;
}

function medianOfThree(keys: Float64Array, a: number, b: number, c: number): number {
  if (before(keys, a, b)) {
    if (before(keys, b, c)) return b;
    return before(keys, a, c) ? c : a;
  }
  if (before(keys, a, c)) return a;
  return before(keys, b, c) ? c : b;
}
