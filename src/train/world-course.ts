/** How training windows of the world ask: what is learned soon, and what is examined in the end, want other questions. */
import { check } from "../world/check.js";
import type { Weights } from "../world/questions.js";
import type { QuestionOptions } from "../world/world.js";
import { deriveSeed } from "./seeds.js";

export interface WorldCourse {
  /**
   * Words of log between questions, from window to window: from the first to the second, as often in every doubling.
   * Dense questions teach to look back soonest; sparse ones are what streams are like. Default 8 to 200.
   */
  readonly every?: readonly [least: number, most: number];
  /** Share of windows that are exams: all of their questions reach equally far back. Default 0.6. */
  readonly exams?: number;
  /** Words between the questions of an exam; null: as in other windows. Default 30. */
  readonly examEvery?: number | null;
  /**
   * How much exams lean to what was said a moment ago, which has often replaced something: 1 for as many at every
   * distance, 3 for half of them within the nearest eighth. Default 1.7.
   */
  readonly lean?: number;
  /** Share of the window's reach that an exam's questions lie within. Default 0.12. */
  readonly width?: number;
  /**
   * Share of windows that begin in the middle of a town's life, as all but the first of a long stream do: people and things
   * are known that the window never introduced. Default 0.5.
   */
  readonly middle?: number;
  /** Share of windows that ask nothing until late, and then much: streams ask seldom. Default 0.3. */
  readonly late?: number;
  readonly weights?: Weights;
}

const DEFAULTS = {
  every: [8, 200],
  exams: 0.6,
  examEvery: 30,
  lean: 1.7,
  width: 0.12,
  middle: 0.5,
  late: 0.3,
} as const satisfies WorldCourse;

const whole = (course: WorldCourse): WorldCourse & Required<Omit<WorldCourse, "weights">> => ({
  ...DEFAULTS,
  ...course,
});

/** Throws INVALID_ARGUMENT for a course that cannot be. */
export function checkCourse(course: WorldCourse): void {
  const { every, exams, examEvery, lean, width, middle, late } = whole(course);
  const [least, most] = every;
  check(least > 0 && most >= least, "every", `${least}-${most}`, "0 < least <= most");
  check(exams >= 0 && exams <= 1, "exams", exams, "a share from 0 to 1");
  check(examEvery === null || examEvery > 0, "examEvery", examEvery, "a number above 0, or null");
  check(lean > 0 && lean <= 100, "lean", lean, "a number above 0, at most 100");
  check(width > 0 && width <= 1, "width", width, "a share above 0");
  check(middle >= 0 && middle <= 1, "middle", middle, "a share from 0 to 1");
  check(late >= 0 && late <= 1, "late", late, "a share from 0 to 1");
}

/** Words between the questions of a window that asks late. */
const LATE_EVERY = 12;
/** Most words of a town's life before a window in the middle of it: enough for all who live there to have done something. */
const MOST_SKIPPED = 4000;

/** Words of a town's life that a window leaves out before it begins. */
export function drawSkip(course: WorldCourse, seed: number, index: number): number {
  const { middle } = whole(course);
  const drawn = share(seed, index, "middle");
  return drawn < middle ? Math.ceil((drawn / middle) * MOST_SKIPPED) : 0;
}

/** What a window asks whose facts lie at most `to` words back; the same for the same seed and index. */
export function drawQuestions(course: WorldCourse, seed: number, index: number, to: number): QuestionOptions {
  const { exams, examEvery, lean, width, late, ...rest } = whole(course);
  const [least, most] = rest.every;
  const every = least * (most / least) ** share(seed, index, "every");
  // Far ones are the harder to find; near ones are those that replaced others.
  const spread = share(seed, index, "spread") < 0.5 ? "far" : "even";
  const weights = course.weights === undefined ? {} : { weights: course.weights };
  const drawn = share(seed, index, "late");
  // At least a sixth of the window is left for questions.
  if (drawn < late)
    return { every: LATE_EVERY, after: ((drawn / late) * to) / 1.2, to, spread: "even", ...weights };
  if (share(seed, index, "banded") >= exams) return { every, to, spread, ...weights };
  const from = Math.max(10, Math.floor(share(seed, index, "band") ** lean * 0.9 * to));
  return {
    every: examEvery ?? every,
    from,
    to: Math.min(to, from + Math.ceil(width * to)),
    spread,
    ...weights,
  };
}

/** At least 0, below 1, for each purpose its own. */
export const share = (seed: number, index: number, purpose: string): number =>
  deriveSeed(seed, index, purpose) / 2 ** 53;
