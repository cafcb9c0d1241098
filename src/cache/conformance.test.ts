import { MIXED, POLICIES } from "../../test/support/cache-policies.js";
import { describeMass, describePolicy } from "../../test/support/cache-suite.js";
import { createReference } from "../backends/reference/index.js";

const reference = createReference();
const backend = () => reference;

for (const policy of [...POLICIES, MIXED]) {
  describePolicy(policy, ["llama"], ["f32", "f16", "int8"], backend);
  // Sliding windows of the layers themselves, and rotary embeddings with a magnitude.
  if (policy === MIXED) describePolicy(policy, ["mistral", "qwen2-yarn"], ["f32"], backend);
  // Layers that alternate between a window and all.
  if (policy.name === "full") describePolicy(policy, ["gemma3"], ["f32"], backend);
}
describeMass(backend);
