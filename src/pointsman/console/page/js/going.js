// What is under way in the instance: rollouts and applies, at the top of the overview.
export const Going = () => null;
