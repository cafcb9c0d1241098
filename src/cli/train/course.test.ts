import { InvalidArgumentError } from "commander";
import { expect, it } from "vitest";
import { worldCourse } from "./course.js";

it("reads a course", () => {
  expect(worldCourse("every=8-50, exams=0,person=12,carries=9")).toEqual({
    every: [8, 50],
    exams: 0,
    weights: { person: 12, carries: 9 },
  });
  expect(worldCourse("exam-every=same,lean=3,width=0.15")).toEqual({ examEvery: null, lean: 3, width: 0.15 });
  expect(worldCourse("exam-every=30")).toEqual({ examEvery: 30 });
});

it.each(["every=8", "exam=1", "lean", "lean=x", "", "person=many"])("refuses %j", (text) => {
  expect(() => worldCourse(text)).toThrow(InvalidArgumentError);
});
