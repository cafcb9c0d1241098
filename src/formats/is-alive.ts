/** Whether a process of this machine runs, this user's or somebody else's. */
export function isAlive(pid: number): boolean {
  // 0 and below stand for groups of processes.
  if (!(pid > 0)) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
