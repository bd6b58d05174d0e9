"""The student's side: rollouts, the teacher's scores, the loss, the update."""
