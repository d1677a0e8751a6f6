variable "bucket" {
  description = "Name of the bucket"
  type        = string
}

variable "prefix" {
  description = "Prefix of repository.location, without slashes at its ends"
  type        = string

  validation {
    condition     = length(var.prefix) > 0 && trim(var.prefix, "/") == var.prefix
    error_message = "A prefix is needed, without slashes at its ends."
  }
}

variable "name" {
  description = "Start of the roles' names"
  type        = string
  default     = "pgproof"
}

variable "trust" {
  description = "For each of agent, verifier, restorer and pruner: who may assume its role, as a policy in JSON"
  type        = map(string)
}

variable "kms_key" {
  description = "ARN of a KMS key for the bucket; without it S3's own keys"
  type        = string
  default     = null
}

variable "stale_upload_days" {
  description = "Uploads that nobody completed are aborted after so many days: longer than any backup takes"
  type        = number
  default     = 7
}

variable "older_version_days" {
  description = "How long a version stays that was written over or deleted: the time to find out and undo it"
  type        = number
  default     = 35
}
