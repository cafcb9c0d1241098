import { describeBackend } from "../../../test/conformance/index.js";
import { createReference } from "./index.js";

describeBackend("reference", createReference);
