/** Everything that no pattern matches. */
export const OTHER_HOSTS = 'other';

/**
 * Returns a function from hostname to its group: the first of the trusted patterns (`*.example.com`, or a whole
 * name) that matches, or `other`. As many groups as patterns and one, whatever hosts there are.
 */
export const createHostGroups = (patterns: readonly string[]): ((hostname: string) => string) => {
  const lower = patterns.map((pattern) => pattern.trim().toLowerCase()).filter((pattern) => pattern !== '');
  return (hostname) => {
    for (const pattern of lower) {
      if (pattern.startsWith('*.') ? hostname.endsWith(pattern.slice(1)) : hostname === pattern)
        return pattern;
    }
    return OTHER_HOSTS;
  };
};
