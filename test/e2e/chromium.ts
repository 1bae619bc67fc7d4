/**
 * The browser of the end-to-end test: the machine's own Chromium, or Debian's package where this may be installed.
 */

const INSTALL_TIMEOUT_MS = 300_000;

const find = (): string | null =>
  Bun.which('chromium') ?? Bun.which('chromium-browser') ?? Bun.which('google-chrome');

/** Path of a Chromium; null, said aloud, when there is none and none can be had. */
export const findChromium = async (): Promise<string | null> => {
  const found = find();
  if (found !== null) return found;
  if (process.env.CI === 'true' && process.getuid?.() === 0 && Bun.which('apt-get') !== null) {
    console.log('  no Chromium on this machine: installing the package chromium');
    for (const command of [
      ['apt-get', 'update', '-qq'],
      ['apt-get', 'install', '-y', '-qq', '--no-install-recommends', 'chromium'],
    ]) {
      const child = Bun.spawn(command, {
        env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
        stdin: 'ignore',
        stdout: 'ignore',
        stderr: 'ignore',
        timeout: INSTALL_TIMEOUT_MS,
      });
      await child.exited;
    }
  }
  const installed = find();
  if (installed === null)
    console.warn('!! NO CHROMIUM on this machine: the test of a browser page was NOT run (package chromium)');
  return installed;
};
