/** The readable list of steps with its count of passed and failed ones. */

export interface Steps {
  /** Runs one step; answers whether it passed. The text it returns is printed beside it. */
  step(name: string, act: () => Promise<string | undefined> | string | undefined): Promise<boolean>;
  readonly passed: number;
  readonly failed: number;
}

export const createSteps = (): Steps => {
  let passed = 0;
  let failed = 0;
  const startedAt = performance.now();
  const clock = () => `${((performance.now() - startedAt) / 1000).toFixed(1).padStart(6)} s`;
  return {
    step: async (name, act) => {
      try {
        const note = await act();
        passed++;
        console.log(`${clock()}  ✓ ${name}${note === undefined ? '' : ` (${note})`}`);
        return true;
      } catch (error) {
        failed++;
        const text = error instanceof Error ? error.message : String(error);
        console.log(`${clock()}  ✗ ${name}\n${text.replace(/^/gm, '             ')}`);
        return false;
      }
    },
    get passed() {
      return passed;
    },
    get failed() {
      return failed;
    },
  };
};

/** Throws `message` unless `condition`. */
export const must: (condition: boolean, message: string) => asserts condition = (condition, message) => {
  if (!condition) throw new Error(message);
};

/** Waits until `probe` answers null; its last answer says what was still missing when the time is over. */
export const settle = async (
  probe: () => string | null | Promise<string | null>,
  timeoutMs = 30_000,
): Promise<void> => {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const missing = await probe();
    if (missing === null) return;
    if (performance.now() > deadline) throw new Error(`after ${timeoutMs / 1000} s: ${missing}`);
    await Bun.sleep(40);
  }
};
