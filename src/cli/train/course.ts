/** `--course`: how training windows of the world ask. */
import { InvalidArgumentError } from "commander";
import type { WorldCourse } from "../../train/world-course.js";
import { QUESTION_KINDS, type QuestionKind } from "../../world/questions.js";
import { decimal } from "../options.js";

const NAMES =
  "every=8-200, exams=0.6, exam-every=30, lean=1.7, width=0.12, middle=0.5, late=0.3, and kinds such as person=12";

/** "every=8-50,exams=0,person=12" as a course; ranges are checked where it is used. */
export function worldCourse(text: string): WorldCourse {
  let course: WorldCourse = {};
  for (const pair of text.split(",")) {
    const [, name = "", value = ""] = /^\s*([\w-]+)\s*=\s*(\S+)\s*$/.exec(pair) ?? [];
    if (name === "every") course = { ...course, every: range(value) };
    else if (name === "exam-every")
      course = { ...course, examEvery: value === "same" ? null : decimal(value) };
    else if (isShare(name)) course = { ...course, [name]: decimal(value) };
    else if (isKind(name)) course = { ...course, weights: { ...course.weights, [name]: decimal(value) } };
    else throw new InvalidArgumentError(`got "${pair.trim()}"; expected NAME=VALUE: ${NAMES}.`);
  }
  return course;
}

function range(value: string): readonly [number, number] {
  const [, least, most] = /^([\d.]+)-([\d.]+)$/.exec(value) ?? [];
  if (least === undefined || most === undefined)
    throw new InvalidArgumentError(`got every=${value}; expected two numbers of words, such as every=8-50.`);
  return [decimal(least), decimal(most)];
}

const SHARES = ["exams", "lean", "width", "middle", "late"] as const;
const isShare = (name: string): name is (typeof SHARES)[number] =>
  (SHARES as readonly string[]).includes(name);
const isKind = (name: string): name is QuestionKind => (QUESTION_KINDS as readonly string[]).includes(name);
